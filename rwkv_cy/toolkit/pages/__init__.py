"""Reports as self-contained HTML pages: no scripts, no other files, no network."""
