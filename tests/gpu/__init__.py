"""What only a machine with a GPU can show. Everything here is skipped elsewhere, with the reason."""
