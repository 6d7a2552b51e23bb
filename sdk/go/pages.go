package tollway

import (
	"context"
	"iter"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// Page is the answer of a list.
type Page interface {
	proto.Message
	GetNextPageToken() string
}

// ListRequest is the request of a list.
type ListRequest interface {
	proto.Message
	GetPageToken() string
}

// Pages walks a list, however many pages it has. An error ends it.
//
//	for page, err := range tollway.Pages(ctx, client.Invoices.ListInvoices, &invoicev1.ListInvoicesRequest{}) { ... }
func Pages[R ListRequest, P Page](
	ctx context.Context, list func(context.Context, R, ...grpc.CallOption) (P, error), request R,
) iter.Seq2[P, error] {
	return func(yield func(P, error) bool) {
		asked := proto.Clone(request).(R)
		token := asked.ProtoReflect().Descriptor().Fields().ByName("page_token")
		for {
			page, err := list(ctx, asked)
			if !yield(page, err) || err != nil || page.GetNextPageToken() == "" {
				return
			}
			asked.ProtoReflect().Set(token, protoreflect.ValueOfString(page.GetNextPageToken()))
		}
	}
}
