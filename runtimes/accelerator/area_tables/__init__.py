"""Energy and area of one access or operation, one YAML file a technology."""
