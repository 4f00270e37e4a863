"""One shard: listener → journal → lanes → postmen → mailboxes, in one process with nothing shared."""
