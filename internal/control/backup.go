package control

import "time"

// Backup is what a backup of the bus holds, or what was restored of one.
type Backup struct {
	File     string             `json:"file"` // absolute path
	Size     int64              `json:"size"` // of the file, in bytes
	System   string             `json:"system"`
	Made     time.Time          `json:"made"`
	Messages uint64             `json:"messages"`
	Streams  List[BackupStream] `json:"streams"`
	// Before is where the data is that was there before a restore, "" if there was none.
	Before string `json:"before,omitempty"`
}

// BackupStream is one stream of JetStream in a backup.
type BackupStream struct {
	Name      string `json:"name"`
	Messages  uint64 `json:"messages"`
	Bytes     uint64 `json:"bytes"`
	Consumers int    `json:"consumers"`
}

// BackupRequest is for POST /v1/backup-bus.
type BackupRequest struct {
	File string `json:"file"` // absolute path of a file that does not exist yet
}

// VerbBackupBus writes all that the bus keeps into a file: BackupRequest -> Backup,
// when the file was synced and read again.
const VerbBackupBus = "backup-bus"
