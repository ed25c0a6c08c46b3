"""Playback of audio as it arrives: its start, and where it stalls."""

UNDERRUN = 0.1  # seconds without audio that count as a gap


class PlaybackClock:
    """Follows a player that begins with the first audio and never waits on purpose; times in seconds."""

    def __init__(self) -> None:
        self.started: float | None = None  # arrival of the first audio
        self.underruns = 0
        self.underrun_seconds = 0.0
        self._until = 0.0  # when all that has arrived will have been played

    def add(self, now: float, seconds: float) -> None:
        """Audio of so many seconds has arrived."""
        if self.started is None:
            self.started = self._until = now
        late = now - self._until
        if late > UNDERRUN:
            self.underruns += 1
            self.underrun_seconds += late
        self._until = max(self._until, now) + seconds
