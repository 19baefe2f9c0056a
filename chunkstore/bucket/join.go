package bucket

import (
	"context"
	"errors"
	"fmt"

	"stepfs/chunkstore/remote"
)

// Read gives a bucket's config. remote.ErrNotExist: the place is empty.
// ErrForeign: it is not, and holds no bucket of ours.
func Read(ctx context.Context, b remote.Bucket) (*Config, error) {
	text, _, err := remote.ReadAll(ctx, b, ConfigKey, MaxConfig)
	if errors.Is(err, remote.ErrNotExist) {
		if err = empty(ctx, b, err); errors.Is(err, ErrForeign) {
			// Or another store has made it its bucket meanwhile.
			if text, _, again := remote.ReadAll(ctx, b, ConfigKey, MaxConfig); again == nil {
				return decode(b, text)
			}
		}
		return nil, err
	}
	if err != nil {
		return nil, err
	}
	return decode(b, text)
}

func decode(b remote.Bucket, text []byte) (*Config, error) {
	c, err := DecodeConfig(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", b, err)
	}
	return c, nil
}

// empty gives err if nothing lies in the bucket.
func empty(ctx context.Context, b remote.Bucket, err error) error {
	for o, lerr := range b.List(ctx, "", "") {
		if lerr != nil {
			return lerr
		}
		return fmt.Errorf("%s: %w: there is %s, and no config", b, ErrForeign, o.Key)
	}
	return err
}

// Join gives the config of a bucket, and makes it from own if the place is
// empty. Of several that make it at the same time one wins, and all get his.
func Join(ctx context.Context, b remote.Bucket, own *Config) (*Config, error) {
	c, err := Read(ctx, b)
	if !errors.Is(err, remote.ErrNotExist) {
		return c, err
	}
	if _, err := b.PutIfAbsent(ctx, ConfigKey, remote.Bytes(own.Encode())); err != nil && !errors.Is(err, remote.ErrExists) {
		return nil, err
	}
	return Read(ctx, b)
}
