package service

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
)

// Once reports whether the message of a durable subscription is handled for the first
// time, and notes it in the transaction: what the handler writes in the same one
// happens once, though the message may be given again. It returns true again for a
// message whose transaction was not committed, and after the consumer was rewound by
// the operator.
//
//	tx, err := db.BeginTx(ctx, nil)
//	...
//	defer tx.Rollback()
//	first, err := service.Once(ctx, tx)
//	if err != nil || !first {
//		return err
//	}
//	... // write in tx
//	return tx.Commit()
//
// It keeps a table fairlead_once in the service's SQLite database, without what is
// acknowledged for good. It knows messages, not what they say: a message that was
// published twice is two, see [PublishOptions].
func Once(ctx context.Context, tx *sql.Tx) (first bool, err error) {
	d, ok := DeliveryOf(ctx)
	if !ok || d.since == 0 {
		return false, errors.New("note message: it is none of a durable subscription")
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("note message %s: %w", d.ID(), err)
		}
	}()
	const table = `CREATE TABLE IF NOT EXISTS fairlead_once (
		consumer TEXT NOT NULL, stream TEXT NOT NULL, sequence INTEGER NOT NULL, since INTEGER NOT NULL,
		PRIMARY KEY (consumer, stream, sequence)
	) WITHOUT ROWID`
	if _, err := tx.ExecContext(ctx, table); err != nil {
		return false, err
	}
	// What is acknowledged is not given again, and what was noted of a consumer before
	// it was rewound means nothing.
	const tidy = `DELETE FROM fairlead_once WHERE consumer = ? AND stream = ? AND (sequence <= ? OR since <> ?)`
	if _, err := tx.ExecContext(ctx, tidy, d.Consumer, d.Stream, int64(d.done), d.since); err != nil {
		return false, err
	}
	r, err := tx.ExecContext(ctx, `INSERT INTO fairlead_once VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING`, d.Consumer, d.Stream, int64(d.Sequence), d.since)
	if err != nil {
		return false, err
	}
	n, err := r.RowsAffected()
	return n > 0, err
}
