"""An open model of any format: its config, fingerprint and tokenizer."""
