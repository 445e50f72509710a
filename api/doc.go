// Package api is the REST surface of the appliance: every call of the contract
// that scripts are written against, its OpenAPI document, its metrics and its
// event stream.
//
// One file holds one resource. A route and its documentation come from the same
// registration (operation.go), parameters are declared once as a struct
// (params.go) and both parsed and documented from it, and one place turns an
// error into a status (problem.go).
//
// Rules that every handler keeps:
//
//	R1. A handler returns an error or writes an answer, never both.
//	R2. Nothing waits for ever: a body is read under a progress deadline, an
//	    answer is written under one (progress.go), a wait at a gate ends with
//	    the request, with ?wait, or with the freeze, whose lease is bounded.
//	R3. A change is durable in the image's domain when its answer arrives.
//	R4. Bytes of the image and of files are copied to the socket. They never
//	    pass through sendfile or splice, whose queued page references would show
//	    stores made after the thaw.
//	R5. An answer that cannot be finished truthfully breaks its connection; it
//	    never ends short as if it were whole.
//	R6. A freeze whose requester left before the answer is rolled back.
//	R7. A refusal carries neither a top-level "id" nor a top-level "hold".
//
// Known holes. A requester that disappears after the answer to POST /freeze is
// in the kernel's hands cannot be told from one that read it: its hold stands
// until its lease ends. A client on another machine that disappears while its
// upload pauses at the gate, with more under way than the socket's buffer takes,
// is noticed at the thaw (see hangups).
package api
