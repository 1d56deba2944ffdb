"""What a rank needs to be a rank: start-up checks, waits that free the core, messages without pickle."""
