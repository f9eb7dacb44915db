"""Networks of the reverse-distillation family, one idea per file."""
