"""A page on this machine that follows a run, a study or a site while it goes on: it reads files, asks a daemon, writes nothing."""
