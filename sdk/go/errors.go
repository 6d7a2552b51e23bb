package tollway

import (
	"errors"
	"fmt"
	"io"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	errorv1 "github.com/tollway/tollway/sdk/go/gen/tollway/error/v1"
)

// Error is what a failed call returns. It still is a status of grpc: status.Code(err) goes on to work.
//
//	var failed *tollway.Error
//	if errors.As(err, &failed) && failed.Reason == errorv1.ErrorReason_ERROR_REASON_CUSTOMER_NOT_FOUND { ... }
type Error struct {
	Code    codes.Code
	Message string
	// Reason is unspecified when none came, or one that is newer than this package.
	Reason errorv1.ErrorReason
	// ReasonName is always what the server sent, such as "CUSTOMER_NOT_FOUND".
	ReasonName string
	Metadata   map[string]string
	// Violations name the wrong fields of an InvalidArgument.
	Violations []*errdetails.BadRequest_FieldViolation
	// RetryAfter is how long to wait before trying again; 0 when the server did not say.
	RetryAfter time.Duration

	status *status.Status
}

// Error is the server's sentence with the reason.
func (e *Error) Error() string {
	if e.ReasonName == "" {
		return fmt.Sprintf("%s (%s)", e.Message, e.Code)
	}
	return fmt.Sprintf("%s (%s)", e.Message, e.ReasonName)
}

// GRPCStatus is the status as it came.
func (e *Error) GRPCStatus() *status.Status { return e.status }

// ReasonOf is the reason of a failed call, and unspecified for any other error.
func ReasonOf(err error) errorv1.ErrorReason {
	var failed *Error
	if errors.As(err, &failed) {
		return failed.Reason
	}
	return errorv1.ErrorReason_ERROR_REASON_UNSPECIFIED
}

// typed makes an Error of what grpc returned. The end of a stream is no failure.
func typed(err error) error {
	if err == nil || errors.Is(err, io.EOF) {
		return err
	}
	told := status.Convert(err)
	failed := &Error{Code: told.Code(), Message: told.Message(), status: told}
	for _, detail := range told.Details() {
		switch detail := detail.(type) {
		case *errdetails.ErrorInfo:
			failed.ReasonName, failed.Metadata = detail.GetReason(), detail.GetMetadata()
			failed.Reason = errorv1.ErrorReason(errorv1.ErrorReason_value["ERROR_REASON_"+detail.GetReason()])
		case *errdetails.BadRequest:
			failed.Violations = detail.GetFieldViolations()
		case *errdetails.RetryInfo:
			failed.RetryAfter = detail.GetRetryDelay().AsDuration()
		}
	}
	return failed
}
