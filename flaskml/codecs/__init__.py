"""Request bodies to rows, answers to response bodies: JSON, forms, CSV and NPY, with reports of validation errors."""
