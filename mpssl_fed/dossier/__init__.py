"""The dossier of a run or of a site for a data-protection officer, and the card of a model: what files say, with their names."""
