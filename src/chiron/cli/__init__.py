"""The command line: one thin file a command, each over a public function."""
