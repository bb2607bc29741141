"""What doors for devices share, whatever devices speak: who may come in, and what messages mean."""
