"""Parts of the studies: composed photographs, arms, their tables."""
