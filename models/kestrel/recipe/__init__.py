"""How kestrel is made: text, teacher's vectors, vocabulary, training, checkpoint."""
