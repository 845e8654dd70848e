"""The relay: our own reverse proxy for TCP and UDP, told its ways in as any plane is told its objects."""
