// The least that firmware and rackseed take for an EFI program of x64: two headers, and words by which it is told from others.
export function efiProgram(words: string): Buffer {
  const bytes = Buffer.concat([Buffer.alloc(0x100), Buffer.from(words)]);
  bytes.write('MZ', 0);
  bytes.writeUInt32LE(0x80, 0x3c);
  bytes.write('PE\0\0', 0x80);
  bytes.writeUInt16LE(0x8664, 0x84);
  return bytes;
}
