"""The relay's hands: processes that carry bytes (`worker`), and the plane that keeps them (`plane`)."""
