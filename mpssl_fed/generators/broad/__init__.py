"""The broad generator: letters of many scripts and textures, and only those classes that can be read."""
