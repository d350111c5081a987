"""The model: transformer, point embedder, autoencoder, prompt bank, adapters and the model directory."""
