"""Show a model to others: an API as OpenAI's, and a page in the browser."""
