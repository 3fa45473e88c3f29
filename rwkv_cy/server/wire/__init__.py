"""The JSON of the APIs: requests as types that check what arrives, and answers as plain data."""
