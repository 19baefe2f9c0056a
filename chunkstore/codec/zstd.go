package codec

import (
	"fmt"

	"github.com/klauspost/compress/zstd"
)

// appendZstd appends src as a frame, as the store has always written it: with
// its content size, without checksum. nil if it cannot.
func (c *Coder) appendZstd(dst, src []byte) []byte {
	if c.enc == nil {
		enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedDefault), zstd.WithEncoderConcurrency(1),
			zstd.WithEncoderCRC(false), zstd.WithLowerEncoderMem(true), zstd.WithWindowSize(2<<20))
		if err != nil {
			return nil // these options are right: never
		}
		c.enc = enc
	}
	return c.enc.EncodeAll(src, dst)
}

// DecodeZstd fills dst from a frame, as it stands behind the form Zstd.
func (c *Coder) DecodeZstd(dst, frame []byte) error {
	if c.dec == nil {
		// A frame may not ask for more than its plain bytes: dst's capacity is
		// the limit.
		dec, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
			zstd.WithDecoderMaxMemory(MaxPlain), zstd.WithDecodeAllCapLimit(true))
		if err != nil {
			return fmt.Errorf("zstd: %w", err)
		}
		c.dec = dec
	}
	out, err := c.dec.DecodeAll(frame, dst[:0:len(dst)])
	if err != nil {
		return fmt.Errorf("%w: zstd: %w", ErrCorrupt, err)
	}
	if len(out) != len(dst) {
		return fmt.Errorf("%w: zstd of %d bytes instead of %d", ErrCorrupt, len(out), len(dst))
	}
	return nil
}
