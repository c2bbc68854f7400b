"""Bytes to rows and answers to bytes: JSON, forms, CSV and NPY, with reports of what is wrong in them."""
