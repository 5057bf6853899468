"""The server: models shared by many over HTTP, as OpenAI's and TEI's clients expect it."""
