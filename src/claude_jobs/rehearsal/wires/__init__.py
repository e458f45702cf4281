"""The dialects of the rehearsal API, one file each."""
