"""The index file: schema, connection and scans."""
