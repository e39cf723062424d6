// What a program of a Linux system needs to start: its loader and its shared libraries, by name, read from its ELF header.

export interface ElfNeeds {
  /** Path of the dynamic loader; absent for a static program and for most libraries. */
  readonly interpreter?: string;
  /** File names of libraries, as the loader looks for them. */
  readonly needed: readonly string[];
  /** Directories to look in first, `$ORIGIN` as it stands. */
  readonly runpath: readonly string[];
}

const [PT_LOAD, PT_DYNAMIC, PT_INTERP] = [1, 2, 3];
const [DT_NULL, DT_NEEDED, DT_STRTAB, DT_RPATH, DT_RUNPATH] = [0, 1, 5, 15, 29];

/** undefined when the bytes are no ELF file of 64 bits in little endian, which all of amd64's and arm64's are; RangeError when such a one is cut off. */
export function elfNeeds(file: Buffer): ElfNeeds | undefined {
  if (file.length < 64 || file.readUInt32BE(0) !== 0x7f454c46 || file[4] !== 2 || file[5] !== 1) return undefined;
  const [at, size, count] = [Number(file.readBigUInt64LE(32)), file.readUInt16LE(54), file.readUInt16LE(56)];
  const segments = Array.from({ length: count }, (_, index) => {
    const base = at + index * size;
    const [offset, address, length] = [8, 16, 32].map((field) => Number(file.readBigUInt64LE(base + field))) as [number, number, number];
    return { type: file.readUInt32LE(base), offset, address, length };
  });
  const found = (type: number) => segments.find((segment) => segment.type === type);
  const text = (offset: number): string => {
    const end = file.indexOf(0, offset);
    if (offset >= file.length || end === -1) throw new RangeError('the ELF file is cut off');
    return file.toString('latin1', offset, end);
  };
  const interp = found(PT_INTERP);
  const dynamic = found(PT_DYNAMIC);
  const entries: (readonly [number, number])[] = [];
  for (let base = dynamic?.offset ?? 0; dynamic && base < dynamic.offset + dynamic.length; base += 16) {
    const [tag, value] = [Number(file.readBigInt64LE(base)), Number(file.readBigUInt64LE(base + 8))];
    if (tag === DT_NULL) break;
    entries.push([tag, value]);
  }
  // The table of names is given by where it will lie in memory.
  const table = entries.find(([tag]) => tag === DT_STRTAB)?.[1] ?? 0;
  const load = segments.find(({ type, address, length }) => type === PT_LOAD && table >= address && table < address + length);
  const named = (...tags: number[]): string[] => entries.flatMap(([tag, value]) => (load && tags.includes(tag) ? [text(table - load.address + load.offset + value)] : []));
  return {
    ...(interp ? { interpreter: text(interp.offset) } : {}),
    needed: named(DT_NEEDED),
    runpath: named(DT_RUNPATH, DT_RPATH).flatMap((paths) => paths.split(':').filter(Boolean)),
  };
}
