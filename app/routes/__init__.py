"""What is served at which path, one module a resource."""
