package tollway

import (
	"context"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

const requestID protoreflect.Name = "request_id"

// caller gives every call the key, a deadline, a request id, and an error of a type. The request id is made once per call,
// above grpc's own retries, so every try of a call has the same.
type caller struct {
	key, tenant string
	timeout     time.Duration
}

func (c caller) signed(ctx context.Context) context.Context {
	ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+c.key)
	if c.tenant != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, "tollway-tenant", c.tenant)
	}
	return ctx
}

func (c caller) unary(
	ctx context.Context, method string, request, answer any, connection *grpc.ClientConn,
	invoke grpc.UnaryInvoker, options ...grpc.CallOption,
) error {
	if _, given := ctx.Deadline(); !given {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, c.timeout)
		defer cancel()
	}
	return typed(invoke(c.signed(ctx), method, withRequestID(request), answer, connection, options...))
}

func (c caller) stream(
	ctx context.Context, description *grpc.StreamDesc, connection *grpc.ClientConn, method string,
	open grpc.Streamer, options ...grpc.CallOption,
) (grpc.ClientStream, error) {
	stream, err := open(c.signed(ctx), description, connection, method, options...)
	if err != nil {
		return nil, typed(err)
	}
	return typedStream{stream}, nil
}

// withRequestID gives the request an id of its own, where its message has one and the caller gave none.
func withRequestID(request any) any {
	message, ok := request.(proto.Message)
	if !ok {
		return request
	}
	field := message.ProtoReflect().Descriptor().Fields().ByName(requestID)
	if field == nil || message.ProtoReflect().Get(field).String() != "" {
		return request
	}
	copied := proto.Clone(message)
	copied.ProtoReflect().Set(field, protoreflect.ValueOfString(uuid.NewString()))
	return copied
}

type typedStream struct{ grpc.ClientStream }

func (s typedStream) SendMsg(message any) error { return typed(s.ClientStream.SendMsg(message)) }

func (s typedStream) RecvMsg(message any) error { return typed(s.ClientStream.RecvMsg(message)) }
