"""`plait up`, `plait down` and the like: wg-quick(8) files become interfaces."""
