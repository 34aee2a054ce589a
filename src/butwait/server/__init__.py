"""``butwait serve``: an OpenAI-compatible server with a search behind every answer."""
