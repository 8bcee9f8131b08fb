"""What happens in a forward pass of a model whose routers are watched or replaced."""
