"""Words that end in a full stop without ending a sentence, in lower case and without the last stop."""


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# A name or more text always follows. English, German, French, Spanish, Hindi, Arabic.
NEVER_LAST = _words(
    """
    mr mrs ms dr prof rev gen hon messrs capt sgt lt col maj cmdr gov sen rep pres supt e.g i.e cf v vs
    viz al approx resp incl excl hr fr z.b d.h u.a o.ä bzw ca evtl ggf inkl exkl bspw sog vgl geb gest
    zzgl med phil rer nat jur ing dipl mme mlle mm mgr sra srta ud uds dña डॉ श्री प्रो पं कु सुश्री د أ
    م
    """
)

# A number follows; before anything else the word is one like others ("No. I do not.").
BEFORE_NUMBERS = _words(
    """
    no nos nr núm num fig figs eq eqs p pp vol vols ch chap sec sect art para ver op jan feb mar apr jun
    jul aug sep sept oct nov dec janv févr avr juil déc mär okt dez ene abr ago dic bd abs s kap abb tab
    pág págs cap ref refs §
    """
)

# The end of a sentence only if the next word is one that often begins a sentence.
SOMETIMES_LAST = _words(
    """
    st mt sr jr co inc ltd corp bros llc dept univ assn ave blvd rd str sq ft m ee uu p.ej p.ex ej ex
    est
    """
)

# The end of a sentence before a capital.
LAST_BEFORE_CAPITALS = _words("etc usw ff")

# The end of a sentence before a capital, unless a day or a time zone follows.
TIMES = _words("a.m p.m")

AFTER_TIMES = _words(
    """
    monday tuesday wednesday thursday friday saturday sunday est edt cst cdt mst mdt pst pdt et ct mt pt
    gmt utc bst cet cest ist jst
    """
)

# After these an ellipsis is a pause.
INTERJECTIONS = _words(
    """
    ah and but eh er erm hm hmm hmmm mm oh ok okay or so uh um well yeah
    """
)

# Words that begin a sentence much more often than they are a name. English, German, French, Spanish.
SENTENCE_STARTERS = _words(
    """
    a after all also although an and another any are as at because before both but by can could despite
    did do does each even every few finally first for from furthermore he hence her here his how however
    i if in instead is it its just last later let many maybe meanwhile moreover most my neither next no
    nobody none nor not nothing now of on once one only or other others our over perhaps please several
    she should since so some someone sometimes soon still such than that the their then there therefore
    these they this those though three thus to today together two under unless until was we were what
    when where which while who why with without would yes yet you your aber als am auch auf das dann
    dass der die dies diese dieser doch ein eine er es für hier ich im ist man mit nach nicht oder sie
    und von war wenn wer wie wir zu ce cela ces cette dans de elle elles en et il ils je la le les mais
    nous ou pour un une vous al como con cuando el ella ellos entonces esta este esto hay las lo los más
    nosotros para pero por que se si sin su también una usted y ya yo
    """
)

# Behind "3." these make a date or a rank of it, in German.
AFTER_ORDINALS = _words(
    """
    januar jänner februar märz april mai juni juli august september oktober november dezember
    jahrhundert jahrhunderts auflage platz klasse stock kapitel weltkrieg weltkriegs mal tag tages woche
    monat quartal advent liga bundesliga stelle etage band semester geburtstag preis akt satz
    """
)
