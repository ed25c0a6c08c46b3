"""The paper's ablations in small: what each choice of Ola changes, measured on digits_omni."""
