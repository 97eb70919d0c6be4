package kms

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/aws/smithy-go"

	"github.com/tidegate/tidegate"
)

// The hints. Those that name no command cannot: they are another product's.
const (
	hintDenied   = "the credentials are known and may not do this: docs/operating/archive-buckets.md has the policy that they need, and the key's own policy must let them, too"
	hintLogin    = "the credentials come from the environment, the shared file or the machine's role, as docs/operating/archive-buckets.md says: are they those of this account, and still valid?"
	hintDisabled = "enable the KMS key (aws kms enable-key): until then nothing of this archive that lies under it can be read"
	hintDeletion = "cancel the deletion (aws kms cancel-key-deletion), then enable the key; once it is deleted nothing that lies under it can ever be read"
	hintState    = "look at the state of the KMS key (aws kms describe-key)"
	hintUsage    = "it must be a symmetric key for encrypting and decrypting (SYMMETRIC_DEFAULT, ENCRYPT_DECRYPT)"
	hintClock    = "this machine's clock and the service's differ by more than it allows: set the clock (timedatectl)"
	hintContext  = "the service does not open it for this archive: the key document was changed, or is another archive's. Put keys/ back from a copy"
)

// verdict is what may be done about an answer.
type verdict struct {
	class tidegate.Class
	is    error // the condition that it is, if it has a sentinel
	hint  string
}

// verdicts are the answers that mean something to us, by code. Of all others the
// status decides. None is tidegate.ErrNotFound: that an object is missing could be taken
// for an answer.
func verdicts() map[string]verdict {
	login := verdict{tidegate.Misuse, tidegate.ErrDenied, hintLogin}
	clock := verdict{class: tidegate.Misuse, hint: hintClock}
	state := verdict{class: tidegate.Misuse, hint: hintState}
	usage := verdict{class: tidegate.Misuse, hint: hintUsage}
	corrupt := verdict{class: tidegate.Corrupt, hint: hintContext}
	again := verdict{class: tidegate.Transient}
	return map[string]verdict{
		"AccessDeniedException":         {tidegate.Misuse, tidegate.ErrDenied, hintDenied},
		"AccessDenied":                  {tidegate.Misuse, tidegate.ErrDenied, hintDenied},
		"NotAuthorized":                 {tidegate.Misuse, tidegate.ErrDenied, hintDenied},
		"UnrecognizedClientException":   login,
		"InvalidClientTokenId":          login,
		"InvalidSignatureException":     login,
		"MissingAuthenticationToken":    login,
		"IncompleteSignature":           login,
		"ExpiredTokenException":         login,
		"OptInRequired":                 login,
		"RequestExpired":                clock,
		"DisabledException":             {class: tidegate.Misuse, hint: hintDisabled},
		"KMSInvalidStateException":      state,
		"InvalidKeyUsageException":      usage,
		"UnsupportedOperationException": usage,
		"InvalidCiphertextException":    corrupt,
		"IncorrectKeyException":         corrupt,
		"KeyUnavailableException":       again,
		"DependencyTimeoutException":    again,
		"KMSInternalException":          again,
		"InternalFailure":               again,
		"ServiceUnavailable":            again,
		"ThrottlingException":           again,
		"LimitExceededException":        again,
	}
}

// judge says of an error of the service what may be done about it: key is what was
// asked for, region where.
func judge(op, key, region string, err error) error {
	var judged *tidegate.Error
	if err == nil || errors.As(err, &judged) {
		return err
	}
	var coded smithy.APIError
	var status interface{ HTTPStatusCode() int }
	code, message, answered := "", "", 0
	if errors.As(err, &coded) {
		code, message = coded.ErrorCode(), coded.ErrorMessage()
	}
	if errors.As(err, &status) {
		answered = status.HTTPStatusCode()
	}
	v, known := verdicts()[code]
	switch {
	case code == "NotFoundException", code == "InvalidArnException":
		v = verdict{class: tidegate.Misuse, hint: "there is no such key in the region " + region + " of the credentials' account: archive.encryption.kms has its key and its region"}
	case code == "KMSInvalidStateException" && strings.Contains(message, "pending deletion"):
		v.hint = hintDeletion
	case known:
	default:
		v = byStatus(answered, err)
	}
	if v.is != nil {
		err = fmt.Errorf("%w: %w", v.is, err)
	}
	return &tidegate.Error{Op: op, Subject: key, Class: v.class, Hint: v.hint, Err: err}
}

// byStatus judges an answer whose code says nothing, or that there was none.
func byStatus(status int, err error) verdict {
	var cert *tls.CertificateVerificationError
	switch {
	case errors.As(err, &cert):
		return verdict{class: tidegate.Misuse, hint: "the certificate of the key service must be of an authority that this machine knows: is archive.encryption.kms.endpoint right?"}
	case status == 0, status < http.StatusMultipleChoices: // of the network, or an answer that broke off
		return verdict{class: tidegate.Transient}
	case status == http.StatusForbidden:
		return verdict{tidegate.Misuse, tidegate.ErrDenied, hintDenied}
	case status == http.StatusUnauthorized:
		return verdict{tidegate.Misuse, tidegate.ErrDenied, hintLogin}
	case status == http.StatusTooManyRequests, status == http.StatusRequestTimeout, status >= http.StatusInternalServerError:
		return verdict{class: tidegate.Transient}
	}
	return verdict{class: tidegate.Permanent}
}
