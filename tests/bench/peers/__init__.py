"""Other ways to serve the same model, what they are installed into, and what they are given and asked."""
