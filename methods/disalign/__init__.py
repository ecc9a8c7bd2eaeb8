"""Distribution alignment."""
