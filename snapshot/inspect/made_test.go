package inspect

import (
	"archive/zip"
	"bytes"
	"fmt"
	"hash/crc32"
)

// torchZip is an archive with one storage, as torch lays it out but for the
// padding.
func torchZip(data []byte) []byte {
	object := fmt.Sprintf("\x80\x02(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuL%dL\ntQ.", len(data)/4)
	return makeZip(record{name: "a/data.pkl"}, []byte(object), record{name: "a/data/0"}, data, record{name: "a/version"}, []byte("3\n"))
}

// makeZip is an archive of records and their content, in turn.
func makeZip(parts ...any) []byte {
	var out bytes.Buffer
	z := zip.NewWriter(&out)
	for i := 0; i < len(parts); i += 2 {
		r, content := parts[i].(record), parts[i+1].([]byte)
		w, err := z.CreateRaw(&zip.FileHeader{Name: r.name, Method: stored, CRC32: crc32.ChecksumIEEE(content),
			CompressedSize64: uint64(len(content)), UncompressedSize64: uint64(len(content))})
		if err == nil {
			_, err = w.Write(content)
		}
		if err != nil {
			panic(err)
		}
	}
	if err := z.Close(); err != nil {
		panic(err)
	}
	return out.Bytes()
}
