"""An index as a file that other programs read: Parquet or JSON Lines, and back."""
