package api

// Forge is GitHub, GitLab or Bitbucket, as the server has it.
type Forge struct {
	Name         string            `json:"name" example:"github"`
	Kind         string            `json:"kind" enum:"github,gitlab,bitbucket"`
	URL          string            `json:"url" doc:"Of its API"`
	Webhooks     bool              `json:"webhooks" doc:"Webhooks are taken at /forges/{name}"`
	Asked        bool              `json:"asked" doc:"There is a token"`
	Comment      bool              `json:"comment"`
	Status       bool              `json:"status"`
	Repositories []ForgeRepository `json:"repositories"`
	Refused      map[string]uint64 `json:"refused,omitempty" doc:"Webhooks that were refused since the server started, by reason"`
	Problems     []string          `json:"problems,omitempty" doc:"What is wrong, where that was to be checked"`
}

// ForgeRepository is a repository, and the services that are of it.
type ForgeRepository struct {
	Name     string   `json:"name" example:"acme/cart"`
	Services []string `json:"services"`
}
