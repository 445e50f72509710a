package freeze

// Freezer is the freeze state machine of one file system.
type Freezer struct{}
