"""The API server: OpenAI's endpoints over an `Engine`. Needs the extra `serve`."""
