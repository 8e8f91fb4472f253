package receiver

import (
	"bytes"
	"reflect"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// shape says how much memory a message of protobuf takes once it is decoded, beside what is in it.
type shape struct {
	size   int64
	fields []*field // by their number; nil where there is none
}

type field struct {
	message *shape // nil where it is none
	packed  int64  // bytes decoded for each encoded one, where many numbers are put together; 0 where they are not
	cost    int64  // of each time that it is there, beside its text
}

// shapeOf returns the shape of a message. Known are those that it may be part of.
func shapeOf(m protoreflect.Message, known map[protoreflect.FullName]*shape) *shape {
	name := m.Descriptor().FullName()
	if s := known[name]; s != nil {
		return s
	}
	size := int64(reflect.TypeOf(m.Interface()).Elem().Size()) //nolint:gosec // it is small
	s := &shape{size: size + size/8}                           // memory is given out in steps
	known[name] = s
	all := m.Descriptor().Fields()
	for i := range all.Len() {
		d := all.Get(i)
		f := &field{cost: 16} // the place in a list that grows, a wrapper of one of several, or what a text begins with
		switch kind := d.Kind(); {
		case kind == protoreflect.MessageKind && d.IsList():
			f.message = shapeOf(m.NewField(d).List().NewElement().Message(), known)
		case kind == protoreflect.MessageKind:
			f.message = shapeOf(m.NewField(d).Message(), known)
		case kind == protoreflect.StringKind, kind == protoreflect.BytesKind:
			f.cost += 32
		case d.IsList() && (kind == protoreflect.Fixed64Kind || kind == protoreflect.DoubleKind || kind == protoreflect.Sfixed64Kind):
			f.packed = 2
		case d.IsList():
			f.packed = 16
		}
		for len(s.fields) <= int(d.Number()) {
			s.fields = append(s.fields, nil)
		}
		s.fields[d.Number()] = f
	}
	return s
}

// of returns how much memory a text takes once it is decoded, about and at most; false where it is no protobuf.
func (s *shape) of(text []byte, depth int) (total int64, ok bool) {
	total = s.size
	if depth > protowire.DefaultRecursionLimit {
		return 0, false
	}
	for len(text) > 0 {
		number, kind, n := protowire.ConsumeTag(text)
		if n < 0 {
			return 0, false
		}
		tag := text
		text = text[n:]
		size := protowire.ConsumeFieldValue(number, kind, text)
		if size < 0 {
			return 0, false
		}
		var f *field
		if int(number) < len(s.fields) {
			f = s.fields[number]
		}
		switch {
		case f == nil: // it is kept as it is
			total += 2 * int64(n+size)
		case f.message != nil && kind == protowire.BytesType:
			inner, _ := protowire.ConsumeBytes(text)
			below, ok := f.message.of(inner, depth+1)
			if !ok {
				return 0, false
			}
			total += f.cost + below
		case f.packed > 0 && kind == protowire.BytesType:
			total += f.cost + f.packed*int64(size)
		default:
			total += f.cost + int64(size)
		}
		text = tag[n+size:]
	}
	return total, true
}

// jsonSize returns how much memory a text in JSON takes once it is decoded and encoded anew as protobuf, about and at most: all that
// is larger than its text is an object, or one of a list.
func jsonSize(text []byte) int64 {
	return 4*int64(len(text)) + 320*int64(bytes.Count(text, []byte("{"))) + 32*int64(bytes.Count(text, []byte(",")))
}
