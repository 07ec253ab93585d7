"""From data files to tokenised prompts: tables, rows, images, encoding, order."""
