// Bursts is the service that groups alert notices by their bursts, each notice
// exactly once, and tells on science.core_program when a burst has changed.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"fairlead/service"
	_ "fairlead/service/sqlite" // the bursts database
	"fairlead/stacks/svom/message"
	"fairlead/stacks/svom/notice"
	"fairlead/stacks/svom/services/bursts/store"
)

const (
	beat = 5 * time.Second
	most = 200 // bursts in one list
)

func main() {
	service.Main(setup)
}

func setup(s *service.Service) error {
	b := &bursts{Service: s, store: store.New(s.Database("bursts"))}
	service.Subscribe(s, "data.*", b.take, service.SubscribeOptions{Name: "group", Attempts: -1, AckWait: 5 * time.Second})
	service.Answer(s, "bursts.list", b.list)
	service.Answer(s, "bursts.show", b.show)
	go message.Heartbeat(s.Context(), s, "activity.core_program", "BURSTS", beat)
	return nil
}

type bursts struct {
	*service.Service
	store *store.Store
}

// take handles a notification. It is given each at least once, and what follows from a
// notice happens exactly once: it is stored together with what its burst says, and
// what was published of it is remembered, or published again with the same id.
func (b *bursts) take(ctx context.Context, d message.DataNotification) error {
	if d.Data.Type != message.TypeNotice {
		return nil // of no burst
	}
	n, err := d.Data.Notice()
	if err != nil {
		return service.Reject(err)
	}
	a, err := b.store.Add(ctx, n)
	if err != nil {
		return err
	}
	if a.Differs {
		b.Logger().WarnContext(ctx, "notice came again with other content", "notice", n.ID)
	}
	if a.Told {
		return nil
	}
	if err := b.tell(ctx, n, a); err != nil {
		return err
	}
	return b.store.Told(ctx, n)
}

// tell publishes what a burst has become with a notice.
func (b *bursts) tell(ctx context.Context, n notice.Notice, a store.Added) error {
	text, err := json.Marshal(a.Burst)
	if err != nil {
		return fmt.Errorf("write burst: %w", err)
	}
	return service.Publish(ctx, b.Service, "science.core_program", message.DataNotification{Data: message.Data{
		Source: "BURSTS", Type: message.TypeBurst, Date: message.Date(time.Now()), Message: string(text),
		Resource: fmt.Sprintf("svom://bursts/%s/%d", a.Burst.ID, a.Revision),
	}}, service.PublishOptions{ID: fmt.Sprintf("%s %d", n.ID, n.Serial)})
}

type listQuery struct {
	Limit int `json:"limit"`
}

type listReply struct {
	Bursts []notice.Burst `json:"bursts"`
}

func (b *bursts) list(ctx context.Context, q listQuery) (listReply, error) {
	if q.Limit < 0 || q.Limit > most {
		return listReply{}, service.Errorf(http.StatusUnprocessableEntity, "limit must be 1 to %d", most)
	}
	if q.Limit == 0 {
		q.Limit = 50
	}
	list, err := b.store.Newest(ctx, q.Limit)
	return listReply{list}, err
}

type showQuery struct {
	ID string `json:"id"`
}

type showReply struct {
	notice.Burst

	All []notice.Notice `json:"all"`
}

func (b *bursts) show(ctx context.Context, q showQuery) (showReply, error) {
	burst, all, err := b.store.Burst(ctx, q.ID)
	if errors.Is(err, store.ErrUnknown) {
		return showReply{}, service.Errorf(http.StatusNotFound, "burst %.20q is not known", q.ID)
	}
	return showReply{burst, all}, err
}
