"""Raw web to clean, deduplicated documents, and documents to tokens."""
