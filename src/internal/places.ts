/** The places of a transport, on this node: for clients that are connected, and for clients that are about to be. */
export class Places {
  private readonly max: number
  private readonly maxPerAddress: number
  private readonly addresses = new Map<string, number>()
  private taken = 0

  constructor(max: number, maxPerAddress: number) {
    this.max = max
    this.maxPerAddress = maxPerAddress
  }

  get size(): number {
    return this.taken
  }

  /** Takes a place, or names the limit that is reached. Clients without an address are not counted by address. */
  take(address: string | undefined): Place | "connections" | "address" {
    if (this.taken >= this.max) return "connections"
    if (address === undefined || this.maxPerAddress === Infinity) {
      this.taken++
      return new Place(this, undefined)
    }
    const count = this.addresses.get(address) ?? 0
    if (count >= this.maxPerAddress) return "address"
    this.addresses.set(address, count + 1)
    this.taken++
    return new Place(this, address)
  }

  /** @internal */
  free(address: string | undefined): void {
    this.taken--
    if (address === undefined) return
    const count = (this.addresses.get(address) ?? 0) - 1
    if (count > 0) this.addresses.set(address, count)
    else this.addresses.delete(address)
  }
}

/** The place of one client. It is released once, however often that is asked for. */
export class Place {
  private places: Places | undefined
  private readonly address: string | undefined

  constructor(places: Places, address: string | undefined) {
    this.places = places
    this.address = address
  }

  release(): void {
    const { places } = this
    this.places = undefined
    places?.free(this.address)
  }
}
