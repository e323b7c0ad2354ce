"""Networks in torch, one file for each paper; `MODELS` is the list."""
