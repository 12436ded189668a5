package node

import (
	"context"
	"errors"
	"slices"
	"strings"

	"fairlead/internal/bus/catalogue"
	"fairlead/internal/bus/delivery"
	"fairlead/internal/control"
)

// consumer makes a durable consumer begin anew, or removes it.
func (n *Node) consumer(ctx context.Context, req control.ConsumerRequest, tell func(control.Event)) (control.Consumer, error) {
	var none control.Consumer
	release, err := n.begin(ctx, tell)
	if err != nil {
		return none, err
	}
	defer release()
	ctx, cancel := context.WithTimeout(ctx, queueTime)
	defer cancel()
	js, s, err := n.findQueue(ctx, req.Queue)
	if err != nil {
		return none, err
	}
	if req.Remove {
		err = n.bus.Forget(ctx, s.Queue, req.Consumer)
	} else {
		err = n.bus.Rewind(ctx, s.Queue, req.Consumer, req.From)
	}
	if err != nil && !errors.Is(err, delivery.ErrNoConsumer) {
		return none, consumerHint(err, req)
	}
	list, lerr := n.consumers(ctx, js, catalogue.Stream(s.Queue))
	if err = errors.Join(err, lerr); err == nil && req.Remove {
		return none, nil
	}
	names := make([]string, len(list))
	for i, c := range list {
		names[i] = c.Name
	}
	if i := slices.Index(names, req.Consumer); err == nil && i >= 0 {
		return list[i], nil
	}
	if lerr != nil {
		return none, lerr
	}
	hint := "its consumers are " + strings.Join(names, ", ")
	if len(names) == 0 {
		hint = "nobody has made a durable subscription to it"
	}
	return none, &control.Error{Code: control.CodeNotFound, Message: "queue " + s.Queue + " has no consumer " + req.Consumer, Hint: hint}
}

// consumerHint says what to do about an error.
func consumerHint(err error, req control.ConsumerRequest) error {
	if place, ok := errors.AsType[*delivery.PlaceError](err); ok {
		return &control.Error{Code: control.CodeBadRequest, Message: place.Error(), Hint: "as in --from 2026-01-31T12:00:00Z"}
	}
	if errors.Is(err, delivery.ErrBusy) {
		return &control.Error{
			Code: control.CodeConflict, Message: "consumer " + req.Consumer + " of queue " + req.Queue + " is in use: an instance subscribes by it",
			Hint: "take the subscription out of the service first",
		}
	}
	return err
}
