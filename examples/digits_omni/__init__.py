"""digits_omni, the demo dataset: handwritten and spoken digits in every kind of record that Ola reads."""
